"""A kernel, a space, a device and a strategy added to hwnas from outside; see CONTRIBUTING.md of hwnas."""
