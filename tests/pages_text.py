"""A page as its text, tags and data."""

from html.parser import HTMLParser


class Outline(HTMLParser):
    """Checks the nesting and collects what is outside, and the data."""

    VOID = ("meta", "img", "br", "wbr", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.tags, self.charts = [], [], [], []
        self.data = self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.sources += [attrs[key] for key in ("src", "href") if key in attrs]
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.charts += ["chart"] * (attrs.get("class") == "chart")
        self.is_data = attrs.get("type") == "application/json"

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.data += data if self.is_data else ""
        elif self.open[-1:] != ["style"]:
            self.text += " ".join(data.split()) + " "

    def handle_endtag(self, tag):
        if tag not in ("path",):
            assert self.open.pop() == tag
