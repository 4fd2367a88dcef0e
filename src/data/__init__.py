"""The data path: files -> splits -> uint8 images, decoded once -> batches on the device."""
