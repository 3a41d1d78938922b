"""What all that trains language models shares: decoders from scratch or given, LoRA, tokenizers, checkpoints."""
