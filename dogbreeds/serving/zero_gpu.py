"""ZeroGPU, the hardware of free Spaces: it gives a GPU to functions that are declared for it. This page needs none."""


def declare() -> None:
    """Declare a function for the GPU that is never called: ZeroGPU stops a Space that declares none when it starts.

    Call it before the page is served. It does nothing where the package `spaces` is missing, or on other hardware.
    """
    try:
        import spaces
    except ModuleNotFoundError as error:
        if error.name != "spaces":
            raise
        return
    spaces.GPU(_never_called)
    # Read in spaces 0.51.3: on ZeroGPU, it reports the start of a Space when `launch` of gradio is called; this page is
    # mounted instead.
    report_start = getattr(getattr(spaces, "zero", None), "startup", None)
    if report_start is not None:
        report_start()


def _never_called() -> None:
    """Photos are answered on the CPU, by ONNX Runtime."""
