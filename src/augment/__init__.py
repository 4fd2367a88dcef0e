"""Augmentation of whole batches on the device, with separate random draws for each image.

Letters: B batch, n images of a group or a chunk, C channels, h w stored pixels, H W pixels of the result, S steps,
K classes. Images come as uint8 (B,C,h,w) and leave as normalized float32 (B,C,H,W). The steps for a batch:

    draw (CPU)  →  geometry, one resampling  →  color, uint8  →  normalize  →  erase  →  mix

The draws are a `Plan` of the whole batch; a process or micro-batch with only some of the images takes its part of it.
"""
