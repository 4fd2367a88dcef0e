"""The machine: devices, memory, disk, processes, output streams. It knows nothing about what is trained."""
