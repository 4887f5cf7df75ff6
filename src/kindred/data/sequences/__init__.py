"""Waveforms and time series: sources, and views of them."""
