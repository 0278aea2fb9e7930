"""The machine: compiler, devices, processes, signals, files."""
