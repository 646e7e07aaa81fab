"""Libraries that keep quiet."""

from __future__ import annotations

import os
import warnings


def quiet_libraries(*, offline: bool = False) -> None:
    """Silence the bars and warnings of the libraries below us, for the rest of the process.

    They are about how we call these libraries, which is not the user's business.

    Args:
        offline: whether nothing is fetched from the hub, its cache apart.
    """
    if offline:
        # Before the imports, too.
        os.environ.update({"HF_HUB_OFFLINE": "1"})
    # Before the imports: both are read when a library is loaded.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Idle threads of one pool must not spin while another works.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    from datasets import disable_progress_bars
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
