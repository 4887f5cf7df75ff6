"""Data of any modality: a source's examples are cut, ordered, dealt to the ranks and turned into views."""
