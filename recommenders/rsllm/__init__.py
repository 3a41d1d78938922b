"""RSLLM: a conventional recommender's item embeddings as words of a language model; docs/rsllm.md."""
