# SPDX-License-Identifier: Apache-2.0
"""Reads handwritten digits with a GRU, and with Keras's own beside it.

The data are the 1797 digits, 8 x 8 pixels, that come with scikit-learn. The network reads a digit
row by row (8 steps of 8 values), or pixel by pixel (64 steps of 1 value) with --pixels.

    python train.py [--pixels] [--units 64] [--epochs 30] [--zoneout 0.1]
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import sklearn.datasets
import sklearn.model_selection

import gru_tf.keras


def load(pixels):
    """Training and validation parts: (x [n, T, C], label [n]) each."""
    digits = sklearn.datasets.load_digits()
    images = (digits.images / 16).astype(np.float32)
    sequences = images.reshape(len(images), -1, 1) if pixels else images
    x, x_validation, y, y_validation = sklearn.model_selection.train_test_split(
        sequences, digits.target, test_size=0.25, stratify=digits.target, random_state=0
    )
    return (x, y), (x_validation, y_validation)


def train(name, layer, training, validation, epochs):
    """Fits a classifier with this recurrent layer. Gives its line of the table."""
    print(f"\n{name}")
    model = keras.Sequential(
        [keras.Input(training[0].shape[1:]), layer, keras.layers.Dense(10, activation="softmax")]
    )
    model.compile(
        keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    # One step first, so that tracing the graph is not timed.
    model.train_on_batch(*(part[:64] for part in training))
    start = time.perf_counter()
    model.fit(*training, batch_size=64, epochs=epochs, validation_data=validation, verbose=1)
    seconds = time.perf_counter() - start
    loss, accuracy = model.evaluate(*validation, verbose=0)
    return f"{name:34} {accuracy:10.4f} {loss:9.4f} {seconds:9.1f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pixels", action="store_true", help="64 steps of 1 value, not 8 of 8")
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--zoneout", type=float, default=0.1)
    arguments = parser.parse_args()

    training, validation = load(arguments.pixels)
    steps, width = training[0].shape[1:]
    print(
        f"{len(training[0])} digits to learn from, {len(validation[0])} to be judged by; "
        f"{steps} steps of {width}"
    )
    units = arguments.units
    layers = {
        "gru_tf.keras.GRU": lambda: gru_tf.keras.GRU(units),
        f"gru_tf.keras.GRU(zoneout={arguments.zoneout})": lambda: gru_tf.keras.GRU(
            units, zoneout=arguments.zoneout
        ),
        "keras.layers.GRU": lambda: keras.layers.GRU(units),
    }
    lines = []
    for name, make in layers.items():
        keras.utils.set_random_seed(1)  # all three start from the same weights
        lines.append(train(name, make(), training, validation, arguments.epochs))
    print(
        f"\n{'layer':34} {'accuracy':>10} {'loss':>9} {'time':>11}"
        f"   (validation; {arguments.epochs} epochs)"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
