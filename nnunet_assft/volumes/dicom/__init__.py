"""DICOM series as volumes: headers of slices, their stack, their voxels, and the key file that says whose they are."""
