"""The sections of the report, one file each: text, figures and tables together. `order.py` lists them."""
