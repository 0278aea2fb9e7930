"""The loop, and what it is made of: devices, logs, and the watch over them."""
