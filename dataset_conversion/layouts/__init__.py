"""The layouts of downloads: one file per layout, each with a function that a row of `DATASETS` names.

A layout is any function from a row and the folders of a download to its cases (`datasets.Layout`). A row of another
package can use its own layout.
"""
