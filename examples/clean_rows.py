"""A cleaning script: plain functions, one after the other. No asyncio, no domain, no decorator.

python examples/clean_rows.py
theus run examples/clean_rows.py:clean_rows orders.csv
"""

import csv
import sys
import tempfile
from collections import Counter
from pathlib import Path

from theus import Engine, flow

SAMPLE = """\
sku, qty, city
 Tea ,2, Hanoi
coffee,1,Hue
tea,three,Hanoi

COFFEE,4, Da Nang
tea,1,
"""


def load(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file, skipinitialspace=True))


def clean(rows):
    """Trim, lower, and leave out what cannot be read."""
    trimmed = [{name: (value or "").strip().lower() for name, value in row.items()} for row in rows]
    return [{**row, "qty": int(row["qty"])} for row in trimmed if row["qty"].isdigit() and row["city"]]


def total(rows):
    sold = Counter()
    for row in rows:
        sold[row["sku"]] += row["qty"]
    return dict(sold)


clean_rows = flow(load, clean, total)

if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(Engine().run(clean_rows, sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            sample = Path(folder, "orders.csv")
            sample.write_text(SAMPLE)
            print(Engine().run([load, clean, total], sample))  # a list of functions will do as well
