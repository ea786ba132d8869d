"""Elman's network, LSTM and GRU against torch.nn's numbers, see tests/golden/make_recurrent.py."""

from battery import FamilyTests


class TestRecurrent(FamilyTests):
    golden = "recurrent"
    small = "lstm"
