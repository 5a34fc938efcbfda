"""``python -m bulkllm`` is the ``bulkllm`` command."""

from .cli import main

if __name__ == "__main__":
    main()
