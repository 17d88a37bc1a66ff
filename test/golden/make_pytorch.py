# SPDX-License-Identifier: Apache-2.0
"""Golden vectors of torch.nn.GRU in float64 (reset after): outputs and every gradient.

Run with torch 2.11 and NumPy: python3 make_pytorch.py. Writes pytorch.json.
"""

import torch

import golden

T, N, C, H = 6, 3, 4, 5


def run(name, seed, *, bidirectional=False, bias=True, h0=True, batch_first=False, lengths=None,
        final_gradient=True, reverse_only=False):
    """One case. A reverse layer alone is the reverse half of a bidirectional one."""
    inputs = golden.Inputs(seed)
    two = bidirectional or reverse_only
    layer = torch.nn.GRU(C, H, bias=bias, batch_first=batch_first, bidirectional=two,
                         dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.from_numpy(inputs(*parameter.shape)))
    rows = (N, T) if batch_first else (T, N)
    x = torch.from_numpy(inputs(*rows, C)).requires_grad_()
    state = torch.from_numpy(inputs(1 + two, N, H)).requires_grad_() if h0 else None
    kept = [1] if reverse_only else ([0, 1] if bidirectional else [0])

    data = x
    if lengths is not None:
        data = torch.nn.utils.rnn.pack_padded_sequence(
            x, torch.tensor(lengths), batch_first=batch_first, enforce_sorted=False)
    h, final = layer(data, state)
    if lengths is not None:
        h, _ = torch.nn.utils.rnn.pad_packed_sequence(h, batch_first=batch_first, total_length=T)
    h = torch.cat([h[..., d * H:(d + 1) * H] for d in kept], dim=-1)
    final = torch.stack([final[d] for d in kept])

    dh = torch.from_numpy(inputs(*h.shape))
    dfinal = torch.from_numpy(inputs(*final.shape)) if final_gradient else None
    loss = (h * dh).sum() + ((final * dfinal).sum() if final_gradient else 0)
    loss.backward()

    directions = []
    for i, d in enumerate(kept):
        suffix = "_l0" + ("_reverse" if d else "")
        names = {"kernel": "weight_ih", "recurrent_kernel": "weight_hh"}
        if bias:
            names.update({"bias": "bias_ih", "recurrent_bias": "bias_hh"})
        direction = {"direction": "reverse" if d else "forward"}
        for key, parameter in names.items():
            value = getattr(layer, parameter + suffix)
            direction[key] = golden.flat(value.detach())
            direction["d" + key] = golden.flat(value.grad)
        direction["final_state"] = golden.flat(final[i].detach())
        if h0:
            direction["h0"] = golden.flat(state[d].detach())
            direction["dh0"] = golden.flat(state.grad[d])
        if final_gradient:
            direction["dfinal_state"] = golden.flat(dfinal[i])
        directions.append(direction)
    return {
        "name": name, "format": "pytorch", "variant": "reset_after",
        "layout": "batch_major" if batch_first else "time_major",
        "T": T, "N": N, "C": C, "H": H,
        **({"lengths": lengths} if lengths is not None else {}),
        "x": golden.flat(x.detach()), "h": golden.flat(h.detach()),
        "dh": golden.flat(dh), "dx": golden.flat(x.grad), "directions": directions,
    }


def main():
    torch.set_num_threads(1)
    lengths = [4, 6, 1]
    cases = [
        run("forward", 1),
        run("forward, without initial state", 2, h0=False),
        run("forward, without biases", 3, bias=False),
        run("forward, gradient of h alone", 4, final_gradient=False),
        run("forward, batch-major", 5, batch_first=True),
        run("forward, lengths", 6, lengths=lengths),
        run("reverse", 7, reverse_only=True),
        run("reverse, lengths, batch-major", 8, reverse_only=True, lengths=lengths,
            batch_first=True),
        run("bidirectional", 9, bidirectional=True),
        run("bidirectional, lengths", 10, bidirectional=True, lengths=lengths),
        run("bidirectional, lengths, batch-major, without biases and initial state", 11,
            bidirectional=True, lengths=lengths, batch_first=True, bias=False, h0=False),
    ]
    golden.write("pytorch.json", "make_pytorch.py", {"torch": torch.__version__}, cases)


main()
