# SPDX-License-Identifier: Apache-2.0
"""The example learns the same with either kind of layer."""

import argparse

import pytest

import recurrent_ppo


def test_both_kinds_earn_the_same():
    settings = argparse.Namespace(environments=8, steps=16, units=16, updates=4, learning_rate=2e-3)
    fused, scanned = (
        recurrent_ppo.train(kind, 1, settings)[0] for kind in ("gru_jax.gru", "lax.scan")
    )
    assert len(fused) == 4
    assert fused == pytest.approx(scanned)
