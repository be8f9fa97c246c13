"""GPU kernels of the plugin, in torch and Triton. None so far: the engine's attention serves all modes."""
