"""What depends on the machine: compilers, processes, signals, files."""
