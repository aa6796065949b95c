#!/bin/sh
''':'
# Align a model: `deepspeed launch/align.sh CONFIG` on any number of devices, `bash launch/align.sh CONFIG` on one.
# The DeepSpeed launcher runs this file with Python, a shell runs it as a script: both read the same lines.
export MALLOC_MMAP_THRESHOLD_=2147483648 MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_TOP_PAD_=268435456
exec "${PYTHON:-python3}" -u -c "from lte.cli import main; main()" align "$@"
'''
import sys

from lte.cli import main

sys.argv[1:] = ["align", *(a for a in sys.argv[1:] if not a.startswith("--local_rank"))]  # the launcher adds one
main()
