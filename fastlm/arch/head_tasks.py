"""What heads are for, by the class that wrote the checkpoint; heads.py has what they compute."""

from __future__ import annotations

from collections.abc import Mapping

from fastlm.arch.spec import ModelSpec, Pool

CLASSIFY, TAG, ANSWER, FILL = "classify", "tag", "answer", "fill_mask"  # tasks: methods of Model
TASKS = {
    "ForSequenceClassification": CLASSIFY,
    "ForTokenClassification": TAG,
    "ForQuestionAnswering": ANSWER,
    "ForMaskedLM": FILL,
    "ForPreTraining": FILL,
}


def task_of(config: Mapping[str, object], spec: ModelSpec) -> str:
    """What a spec's head is for, by the class that wrote the checkpoint; "" without one, or where it writes."""
    names = config.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    if not spec.head or (spec.decoder is not None and spec.pool is Pool.NONE):
        return ""
    return next((task for end, task in TASKS.items() if name.endswith(end)), "")
