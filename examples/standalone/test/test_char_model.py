#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the demo as a user would: train, save, load, resume, sample. Needs Python alone."""
import json
import math
import os
import random
import struct
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree
from pathlib import Path

PROGRAM = None  # the program's path, from the command line

WORDS = ["gate", "reset", "update", "state", "hidden", "cell", "step", "batch", "layer", "weight"]
TRAINING = ["--embedding", "12", "--hidden", "40", "--layers", "2", "--batch", "16", "--steps", "24",
            "--rate", "0.01", "--zoneout", "0.05", "--dropconnect", "0.05", "--held-out", "0.1"]
ITERATIONS = 200


def run(*arguments, code=0, threads=2, environment=None):
    """Runs the demo on the host and returns what it printed."""
    command = [PROGRAM, "--engine", "host", "--threads", str(threads),
               *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, timeout=120, env=environment)
    output = (result.stdout + result.stderr).decode("latin-1")
    assert result.returncode == code, f"{command} ended with {result.returncode}:\n{output}"
    return output


def sample_in(output):
    begin = output.index("----\n") + len("----\n")
    return output[begin:output.rindex("\n---- end of sample")]


def losses_in(path):
    lines = path.read_text().splitlines()
    assert lines[0] == "iteration,loss,held_out"
    rows = [line.split(",") for line in lines[1:]]
    assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))
    return [row[1] for row in rows]


def held_out_losses_in(path):
    return [float(line.split(",")[2]) for line in path.read_text().splitlines()[1:]
            if not line.endswith(",")]


def read_safetensors(path):
    """Metadata and {name: (type, shape, bytes)}, with the checks that the format asks for."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    values = data[8 + length:]
    metadata = header.pop("__metadata__")
    assert all(isinstance(value, str) for value in metadata.values())
    tensors = {}
    end_of_last = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        size = {"F32": 4, "F64": 8, "U8": 1}[entry["dtype"]]
        assert begin == end_of_last, "the format allows no holes"
        assert end - begin == size * math.prod(entry["shape"])
        tensors[name] = (entry["dtype"], entry["shape"], values[begin:end])
        end_of_last = end
    assert end_of_last == len(values)
    return metadata, tensors


class Model:
    """The saved model computed in plain Python from PyTorch's formulas, greedily."""

    def __init__(self, tensors):
        self.tensors = tensors
        self.vocabulary = list(tensors["vocabulary"][2])
        self.layers = sum(name.startswith("gru.weight_ih") for name in tensors)
        self.states = [[0.0] * tensors["gru.weight_hh_l0"][1][1] for _ in range(self.layers)]

    def rows(self, name):
        kind, shape, data = self.tensors[name]
        assert kind == "F32"
        values = struct.unpack(f"<{len(data) // 4}f", data)
        width = shape[1] if len(shape) == 2 else 1
        return [values[i:i + width] for i in range(0, len(values), width)]

    def linear(self, weight, bias, x):
        return [sum(a * b for a, b in zip(row, x)) + b0[0]
                for row, b0 in zip(self.rows(weight), self.rows(bias))]

    def feed(self, byte, zoneout):
        """Puts a character in and returns the likeliest next one."""
        x = self.rows("embedding.weight")[self.vocabulary.index(byte)]
        for layer in range(self.layers):
            s = self.states[layer]
            size = len(s)
            p = self.linear(f"gru.weight_ih_l{layer}", f"gru.bias_ih_l{layer}", x)
            q = self.linear(f"gru.weight_hh_l{layer}", f"gru.bias_hh_l{layer}", s)
            new = []
            for i in range(size):
                r = 1 / (1 + math.exp(-(p[i] + q[i])))
                z = 1 / (1 + math.exp(-(p[size + i] + q[size + i])))
                g = math.tanh(p[2 * size + i] + r * q[2 * size + i])
                c = z * s[i] + (1 - z) * g
                new.append(zoneout * s[i] + (1 - zoneout) * c)
            self.states[layer] = x = new
        logits = self.linear("linear.weight", "linear.bias", x)
        return self.vocabulary[max(range(len(logits)), key=logits.__getitem__)]


class CharModel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = Path(cls.temporary.name)
        generator = random.Random(1)
        cls.words = [generator.choice(WORDS) for _ in range(4000)]
        cls.text = cls.folder / "text.txt"
        cls.text.write_text(" ".join(cls.words))
        cls.whole = cls.folder / "whole.safetensors"
        cls.output = run("--text", cls.text, *TRAINING, "--iterations", ITERATIONS,
                         "--save", cls.whole, "--log", cls.folder / "whole.csv",
                         "--plot", cls.folder / "loss.svg", "--sample", 50)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def unigram_entropy(self):
        text = self.text.read_text()
        text = text[:len(text) - int(0.1 * len(text))]
        shares = [text.count(character) / len(text) for character in set(text)]
        return -sum(share * math.log(share) for share in shares)

    def test_loss_falls_well_below_the_unigram_entropy(self):
        unigram = self.unigram_entropy()
        self.assertIn(f"unigram entropy {unigram:.3f}", self.output)
        losses = [float(loss) for loss in losses_in(self.folder / "whole.csv")]
        self.assertEqual(len(losses), ITERATIONS)
        self.assertGreater(losses[0], 0.9 * unigram)
        self.assertLess(sum(losses[-20:]) / 20, 0.5 * unigram)
        held_out = float(self.output.split("held-out loss ")[1].split()[0])
        self.assertLess(held_out, 0.5 * unigram)

    def test_resumed_run_is_the_uninterrupted_one_bit_by_bit(self):
        half = self.folder / "half.safetensors"
        resumed = self.folder / "resumed.safetensors"
        run("--text", self.text, *TRAINING, "--iterations", ITERATIONS // 2, "--save", half,
            "--sample", 0)
        # Sizes and training options come from the file.
        run("--text", self.text, "--held-out", 0.1, "--resume", half, "--iterations",
            ITERATIONS - ITERATIONS // 2, "--save", resumed, "--log", self.folder / "resumed.csv",
            "--sample", 0)
        self.assertEqual(losses_in(self.folder / "resumed.csv"),
                         losses_in(self.folder / "whole.csv"))
        expected = read_safetensors(self.whole)
        seen = read_safetensors(resumed)
        for _, tensors in (expected, seen):
            del tensors["history.validation"]  # the runs validate at other iterations
        self.assertEqual(seen, expected)
        self.assertEqual(seen[0]["iteration"], str(ITERATIONS))

    def test_16_bits_and_lines_learn_as_well(self):
        text = self.folder / "lines.txt"
        text.write_text("".join(" ".join(self.words[5 * i:5 * i + 1 + i % 5]) + "\n"
                                for i in range(800)))
        log = self.folder / "lines.csv"
        last = {}
        for kind in ("float", "half", "bfloat16"):
            run("--text", text, *TRAINING, "--lines", "--type", kind, "--iterations", ITERATIONS,
                "--validations", 4, "--log", log, "--sample", 0)
            held_out = held_out_losses_in(log)
            self.assertEqual(len(held_out), 4)
            last[kind] = held_out[-1]
        self.assertLess(last["float"], 1)
        self.assertLess(abs(last["half"] - last["float"]), 0.02)
        self.assertLess(abs(last["bfloat16"] - last["float"]), 0.02)

    def test_number_of_threads_changes_no_bit(self):
        log = self.folder / "one_thread.csv"
        run("--text", self.text, *TRAINING, "--iterations", 10, "--log", log, "--sample", 0,
            threads=1)
        self.assertEqual(losses_in(log), losses_in(self.folder / "whole.csv")[:10])

    def test_saved_model_has_the_names_and_shapes_of_pytorch(self):
        _, tensors = read_safetensors(self.whole)
        size = len(tensors["vocabulary"][2])
        self.assertEqual(bytes(tensors["vocabulary"][2]).decode(),
                         "".join(sorted(set(self.text.read_text()))))
        shapes = {"embedding.weight": [size, 12], "linear.weight": [size, 40], "linear.bias": [size],
                  "gru.weight_ih_l0": [120, 12], "gru.weight_ih_l1": [120, 40]}
        for layer in ("l0", "l1"):
            shapes |= {f"gru.weight_hh_{layer}": [120, 40], f"gru.bias_ih_{layer}": [120],
                       f"gru.bias_hh_{layer}": [120], f"state.{layer}": [16, 40]}
        for name, shape in shapes.items():
            self.assertEqual(tensors[name][:2], ("F32", shape), name)
            if not name.startswith("state"):
                for moment in ("adam.first_moment.", "adam.second_moment."):
                    self.assertEqual(tensors[moment + name][:2], ("F32", shape), moment + name)

    def test_sample_at_temperature_zero_is_what_plain_python_computes(self):
        prompt = "hidden "
        seen = sample_in(run("--load", self.whole, "--iterations", 0, "--temperature", 0,
                             "--sample", 25, "--prompt", prompt))
        metadata, tensors = read_safetensors(self.whole)
        zoneout = json.loads(metadata["training"])["zoneout"]
        self.assertEqual(zoneout, 0.05)
        model = Model(tensors)
        for character in prompt:
            following = model.feed(ord(character), zoneout)
        expected = prompt
        for _ in range(25):
            expected += chr(following)
            following = model.feed(following, zoneout)
        self.assertEqual(seen, expected)

    def test_samples_are_words_of_the_text_and_repeat_with_their_seed(self):
        def sample(seed):
            return sample_in(run("--load", self.whole, "--iterations", 0, "--temperature", 0.5,
                                 "--sample", 400, "--prompt", "state ", "--seed", seed))
        first = sample(1)
        self.assertEqual(len(first), len("state ") + 400)
        self.assertEqual(first, sample(1))
        self.assertNotEqual(first, sample(2))
        words = first.split()[:-1]  # the last may be cut off
        known = sum(word in WORDS for word in words)
        self.assertGreater(known, 0.8 * len(words), first)
        self.assertGreater(len(set(words)), 3, first)

    def test_plots(self):
        root = xml.etree.ElementTree.parse(self.folder / "loss.svg").getroot()
        self.assertTrue(root.tag.endswith("svg"))
        line = next(element for element in root.iter() if element.tag.endswith("polyline"))
        self.assertEqual(len(line.get("points").split()), ITERATIONS)
        self.assertIn("* training", self.output)

    def test_bad_files_and_arguments_are_named(self):
        self.assertIn("cut off", run("--load", self.cut("cut", 200), "--iterations", 0, code=1))
        self.assertIn("offsets", run("--load", self.cut("short", -1), "--iterations", 0, code=1))
        self.assertIn("safetensors", run("--load", self.text, "--iterations", 0, code=1))
        self.assertIn("'Q'", run("--load", self.whole, "--iterations", 0, "--prompt", "Q", code=1))
        short = self.folder / "short.txt"
        short.write_text("ab")
        self.assertIn("too short", run("--text", short, code=1))
        self.assertIn("--load", run("--iterations", 0, code=1))
        self.assertIn("state.l0", run("--resume", self.whole, "--text", self.text, "--batch", 3,
                                      code=1))

    def test_arguments_out_of_range_are_refused(self):
        for option, values in {"--hidden": (0, 2**24 + 1, 2**62), "--embedding": (2**62,),
                               "--batch": (0, 2**62), "--steps": (-1, 2**62), "--layers": (9,),
                               "--iterations": (-1, 2**63), "--held-out": ("nan", 0.6),
                               "--seconds": ("nan", "inf", -1), "--epochs": ("nan", 1e300),
                               "--rate": ("nan", "inf"), "--plot": ("loss.pdf", "loss")}.items():
            for value in values:
                self.assertIn(option, run(f"{option}={value}", code=105))
        self.assertIn("too large", run("--text", self.text, "--lines", "--batch", 2**24, "--steps",
                                       2**24, code=1))

    def test_results_that_cannot_be_written_are_noticed_before_training(self):
        endless = ["--text", self.text, *TRAINING, "--seconds", 1000]
        path = self.folder / "no" / "folder.svg"
        for option in ("--save", "--log", "--plot"):
            self.assertIn(f"cannot write {path}", run(*endless, option, path, code=1))
        self.assertIn("a directory", run(*endless, "--save", self.folder, code=1))
        self.assertIn("'Q'", run(*endless, "--prompt", "Q", code=1))
        if Path("/dev/full").exists():
            with open("/dev/full", "wb") as full:
                self.assertEqual(subprocess.run([PROGRAM, "--help"], stdout=full,
                                                stderr=subprocess.DEVNULL).returncode, 1)

    def test_missing_matplotlib_is_named(self):
        (self.folder / "python3").write_text("#!/bin/sh\nexit 3\n")
        (self.folder / "python3").chmod(0o755)
        environment = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"}
        self.assertIn("matplotlib", run("--text", self.text, *TRAINING, "--iterations", 400,
                                        "--sample", 0, "--plot", self.folder / "loss.png",
                                        code=1, environment=environment))

    def test_bad_values_in_a_saved_model_are_named(self):
        training = json.loads(read_safetensors(self.whole)[0]["training"])
        for name, value in [("batch", 0), ("batch", -1), ("steps", 0), ("steps", 1e300),
                            ("steps", 2**62), ("rate", -1), ("clip", -1), ("zoneout", 1),
                            ("type", "double"), ("seed", 0.5)]:
            changed = json.dumps({**training, name: value})
            self.assert_refused(name, lambda h: h["__metadata__"].update(training=changed))
        for name, value in [("hidden", "0"), ("hidden", "40x"), ("layers", "9"), ("text", "-1"),
                            ("embedding", str(2**62)), ("embedding", " 12")]:
            self.assert_refused(f"{name} is '{value}'",
                                lambda h: h["__metadata__"].update({name: value}))
        self.assert_refused("not F32[50331648,12]",
                            lambda h: h["__metadata__"].update(hidden=str(2**24)))
        self.assert_refused("shape", lambda h: h["linear.bias"].update(shape=[1.5]))
        self.assert_refused("offsets", lambda h: h["linear.bias"].update(data_offsets=[0.0, 4.5]))
        self.assert_refused("1 bytes behind", lambda h: None, b"x")

    def test_bad_history_is_refused(self):
        entries = read_safetensors(self.whole)[1]["history.validation"][2]
        data = self.whole.read_bytes()
        self.assertEqual(data.count(entries), 1)
        path = self.folder / "history.safetensors"
        for iteration, loss in ((math.nan, 1), (1e300, 1), (1, math.inf)):
            path.write_bytes(data.replace(entries, struct.pack("<2d", iteration, loss) +
                                          entries[16:]))
            self.assertIn("history", run("--text", self.text, "--resume", path, code=1))

    def assert_refused(self, words, change, behind=b""):
        """The saved model with a changed header and more bytes behind is an error that says so."""
        data = self.whole.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8:8 + length])
        change(header)
        text = json.dumps(header).encode()
        path = self.folder / "changed.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length:] + behind)
        output = run("--text", self.text, "--resume", path, "--iterations", 1, code=1)
        self.assertIn(str(path), output)
        self.assertIn(words, output)

    def cut(self, name, size):
        path = self.folder / name
        path.write_bytes(self.whole.read_bytes()[:size])
        return path


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main(verbosity=2)
