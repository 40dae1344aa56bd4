"""ZeroGPU, the hardware of free Spaces, which lends a GPU to functions that ask for it. Answers here ask for none."""


def declare() -> None:
    """Declare a function for the GPU, without which ZeroGPU stops a Space at its start; it is never called.

    To be called before the page is launched. Where the package `spaces` is missing nothing is done, and elsewhere than
    on ZeroGPU its decorator does nothing.
    """
    try:
        import spaces
    except ModuleNotFoundError as error:
        if error.name != "spaces":
            raise
        return
    spaces.GPU(_never_called)


def _never_called() -> None:
    """Photos are answered on the CPU, by ONNX Runtime."""
