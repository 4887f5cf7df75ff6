"""Data sets of Hugging Face's library (https://github.com/huggingface/datasets), the extra `huggingface`."""
