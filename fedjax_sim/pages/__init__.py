"""What people look at: the page of a report, of one run, and of runs in progress."""
