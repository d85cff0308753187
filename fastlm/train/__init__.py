"""Training, beside the engine: from scratch, from a teacher, or on from a checkpoint.

Needs `pip install '.[train]'`; the engine never imports this package. The shell commands are `fastlm train`,
`fastlm distill` and `fastlm finetune`; the functions behind them are `scratch.train`, `distill.distill` and
`finetune.finetune`. Results are Hugging Face folders.
"""
