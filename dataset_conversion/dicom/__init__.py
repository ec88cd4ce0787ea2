"""DICOM series of a folder into an nnU-Net raw dataset. Start reading with `conversion.py`."""
