"""The report: one HTML file that opens offline, and a folder beside it with every figure and its data."""
