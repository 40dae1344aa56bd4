"""The Hugging Face Hub, seen from a user who may have no network."""

import sys


def announce(name: str) -> None:
    """Say that a name is looked up, which takes half a minute without a network, and silence each single retry."""
    import huggingface_hub.utils.logging as hub_logging

    hub_logging.set_verbosity_error()
    print(f"looking for {name} in the local cache and on the Hugging Face Hub ...", file=sys.stderr)
