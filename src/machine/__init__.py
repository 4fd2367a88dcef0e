"""The machine: devices, memory, disk, processes. It knows nothing about what is trained."""
