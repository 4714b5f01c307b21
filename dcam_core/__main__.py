"""`python -m dcam_core` is `dcam`."""

from dcam_core.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
