# SPDX-License-Identifier: Apache-2.0
"""The example learns the same with either kind of layer."""

import argparse

import pytest
import recurrent_ppo
import torch


def test_both_kinds_earn_the_same(device, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # with which actions differ
    settings = argparse.Namespace(
        device=device, environments=8, steps=16, units=16, updates=3, learning_rate=2e-3
    )
    at_once, from_start_to_start = (
        recurrent_ppo.train(kind, 1, settings)[0] for kind in ("gru_torch.GRU", "torch.nn.GRU")
    )
    assert len(at_once) == 3
    assert at_once == pytest.approx(from_start_to_start)
