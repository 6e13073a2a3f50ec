"""Reports on run directories: python launch/report.py --results=DIR.

    --where="defense_name = 'droplet' and attack_dpr > 0.1"   lists such runs only
    --sql="SELECT defense_name, avg(asr) FROM runs GROUP BY ALL"
    --layout=drop_table3            a paper's table, published values beside measured
    --cells=dataset=cifar10         only these cells of it
    --ignore=data.name,client.lr    takes also runs that differ from its cells in these
    --rows=defense.name --columns=attack.dpr,partition.name --values=mta,asr
                                    a table of any config keys and metrics
    --mta=80                        from which MTA on a danger zone counts
    --out=DIR                       Markdown, LaTeX, HTML, figures, parquet

The tables `runs` and `rounds` and their columns: `fedjax_sim/reports/store.py`.
"""

import sys

from fedjax_sim.commands.main import start

if __name__ == "__main__":
    sys.exit(start("report", sys.argv))
