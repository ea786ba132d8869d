"""LAMB, Adafactor and Muon against plain twins in numpy, and against PyTorch's and Keras's numbers."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from garden.layers import Projections
from garden.tasks.optimization import AdamW
from training.optimizers import OPTIMIZERS, Lamb, Muon, optimizer, orthogonalised

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "optimizers.json").read_text())
SHAPES = {"kernel": (4, 3), "bias": (3,), "scalar": (), "table": (6, 2), "cube": (2, 2, 3)}
STEPS = 5


def variables():
    draw = np.random.default_rng(0)
    made = [keras.Variable(draw.normal(size=shape), dtype="float32", name=name) for name, shape in SHAPES.items()]
    made[0].parts = (1, 2)  # one output: not Muon's
    made[3].parts = (2,)
    return made


def gradients(step):
    draw = np.random.default_rng(step + 1)
    return [np.asarray(draw.normal(size=shape), np.float32) for shape in SHAPES.values()]


def size(x):
    return np.sqrt((x**2).sum())


def mean_square_root(x):
    return np.sqrt((x**2).mean())


def plain_lamb(w, grads, *, rate, weight_decay, epsilon=1e-6):
    """Algorithm 2 of You et al., 2020, on all but vectors."""
    m = v = np.zeros_like(w)
    for step, g in enumerate(grads, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        update = m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + epsilon)
        if w.ndim < 2:
            w = w - rate * update
        else:
            update = update + weight_decay * w
            w = w - rate * size(w) / size(update) * update
    return w


def plain_adafactor(w, grads, *, rate, weight_decay, relative_step=False, scale_parameter=True):
    """Algorithms 4 to 6 of Shazeer and Stern, 2018."""
    rows = columns = moments = 0.0
    for step, g in enumerate(grads, start=1):
        beta, squares = 1 - step**-0.8, g**2 + 1e-30
        if w.ndim < 2:
            moments = beta * moments + (1 - beta) * squares
            estimate = moments
        else:
            rows = beta * rows + (1 - beta) * squares.mean(axis=-1)
            columns = beta * columns + (1 - beta) * squares.mean(axis=-2)
            estimate = rows[..., :, None] * columns[..., None, :] / rows.mean(axis=-1)[..., None, None]
        update = g / np.sqrt(estimate)
        update = update / max(1, mean_square_root(update))
        own = min(rate, step**-0.5) if relative_step else rate
        own = own * max(1e-3, mean_square_root(w)) if scale_parameter else own
        kept = 1 if w.ndim < 2 else 1 - rate * weight_decay
        w = w * kept - own * update
    return w


def plain_muon(w, grads, *, rate, weight_decay, parts):
    """Jordan et al., 2024, one matrix at a time."""
    m = np.zeros_like(w)
    for g in grads:
        m = 0.95 * m + 0.05 * g
        update = np.concatenate([plain_polar(part) for part in np.split(0.05 * g + 0.95 * m, parts, axis=1)], axis=1)
        w = w * (1 - rate * weight_decay) - rate * update
    return w


def plain_polar(x):
    scale = 0.2 * np.sqrt(max(x.shape))
    wide = x.shape[0] <= x.shape[1]
    x = x / size(x)
    x = x if wide else x.T
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return scale * (x if wide else x.T)


def trained(name, *, compiled=True, **options):
    made, values = optimizer(name, 0.02, global_clipnorm=None, **options), variables()
    made.build(values)
    apply = tf.function(made.apply) if compiled else made.apply
    for step in range(STEPS):
        apply([tf.constant(gradient) for gradient in gradients(step)])
    return dict(zip(SHAPES, (value.numpy() for value in values), strict=True))


def expected(twin, **options):
    by_variable = zip(*(gradients(step) for step in range(STEPS)), strict=True)
    return {
        name: twin(variable.numpy().astype(np.float64), grads, rate=0.02, **options)
        for name, variable, grads in zip(SHAPES, variables(), by_variable, strict=True)
    }


def compare(given, wanted):
    for name, value in wanted.items():
        np.testing.assert_allclose(given[name], value, rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["eager", "graph"])
def test_lamb_is_the_papers(compiled):
    compare(trained("lamb", weight_decay=0.3, compiled=compiled), expected(plain_lamb, weight_decay=0.3))


@pytest.mark.parametrize("options", [{}, {"relative_step": True}, {"scale_parameter": False}], ids=str)
def test_adafactor_is_the_papers(options):
    compare(trained("adafactor", weight_decay=0.3, **options), expected(plain_adafactor, weight_decay=0.3, **options))


def test_muon_is_adamw_but_for_hidden_kernels():
    given, adam = trained("muon", weight_decay=0.3), trained("adamw", weight_decay=0.3)
    table = list(SHAPES).index("table")
    grads = [gradients(step)[table] for step in range(STEPS)]
    wanted = plain_muon(variables()[table].numpy(), grads, rate=0.02, weight_decay=0.3, parts=[])
    compare(given, adam | {"table": wanted})


def test_lamb_leaves_zeros_as_adam_would():
    values = [keras.Variable(np.zeros([2, 2]), dtype="float32") for _ in range(2)]
    made = Lamb(0.1, weight_decay=0.0, global_clipnorm=None)
    made.build(values)
    made.apply([tf.ones([2, 2]), tf.zeros([2, 2])])
    np.testing.assert_allclose(values[0], -0.1 * np.ones([2, 2]), rtol=1e-5)
    np.testing.assert_array_equal(values[1], np.zeros([2, 2]))


def golden_run(made, shape):
    count = int(np.prod(shape))
    numbers = np.arange(count, dtype=np.float32)
    variable = keras.Variable(0.1 * np.cos(numbers).reshape(shape), dtype="float32")
    variable.parts = shape[1:]
    made.build([variable])
    for step in range(3):
        made.apply([tf.constant(np.sin(numbers * 1.7 + step + 0.5).reshape(shape))])
    return variable.numpy().ravel()


@pytest.mark.parametrize(
    ("golden", "name", "rate", "shape", "options"),
    [
        ("adafactor", "adafactor", 0.05, (4, 6), {}),
        ("adafactor_vector", "adafactor", 0.05, (5,), {}),
        ("muon", "muon", 0.02, (4, 6), {"adjust": "original"}),
        ("muon_tall", "muon", 0.02, (6, 4), {}),
    ],
)
def test_pytorch_agrees(golden, name, rate, shape, options):
    made = optimizer(name, rate, weight_decay=0.1, global_clipnorm=None, **options)
    np.testing.assert_allclose(golden_run(made, shape), GOLDEN[golden], rtol=1e-5, atol=5e-6)


def test_keras_agrees_on_lamb():
    stock = keras.optimizers.Lamb(0.02, epsilon=1e-6)
    ours = Lamb(0.02, weight_decay=0.0, global_clipnorm=None)
    np.testing.assert_allclose(golden_run(ours, (4, 6)), golden_run(stock, (4, 6)), rtol=1e-5)


# --------------------------------------------------------------------------------------------------------- Muon


def test_orthogonal_matrices_have_singular_values_of_about_one():
    draw = np.random.default_rng(0)
    for shape in ((8, 8), (5, 20), (20, 5)):
        x = tf.constant(draw.normal(size=shape), tf.float32)
        values = np.linalg.svd(orthogonalised(x).numpy(), compute_uv=False)
        assert 0.5 < values.min() <= values.max() < 1.3
        np.testing.assert_allclose(orthogonalised(x, dtype="bfloat16"), orthogonalised(x), atol=0.1)
    assert not np.any(orthogonalised(tf.zeros([3, 4])))


def test_parts_that_stand_side_by_side_are_made_orthogonal_each_by_itself():
    layer = Projections([4, 4, 4], bias=False)
    layer.build((None, 8))
    before, draw = layer.kernel.numpy(), np.random.default_rng(0)
    made = Muon(1.0, weight_decay=0.0, global_clipnorm=None)
    made.build(layer.trainable_variables)
    gradient = draw.normal(size=(8, 12)).astype(np.float32)
    made.apply([tf.constant(gradient)])
    change = before - layer.kernel.numpy()
    for part, of_part in zip(np.split(change, 3, axis=1), np.split(gradient, 3, axis=1), strict=True):
        np.testing.assert_allclose(part, plain_polar(of_part.astype(np.float64)), atol=1e-4)


def test_a_task_tells_which_kernels_are_hidden(still_bert):
    from garden import MaskedLM

    model = MaskedLM.from_pretrained(still_bert)
    model.compile(optimizer("muon", 0.02))
    hidden = {
        variable.path.split("/", 1)[1]: parts
        for variable, parts in zip(model.trainable_variables, model.optimizer._parts, strict=True)
        if parts
    }
    assert hidden == {
        "block_0/attention/query_key_value/kernel": (16, 16, 16),
        "block_0/attention/output/kernel": (16,),
        "block_0/feed_forward/inner/kernel": (32,),
        "block_0/feed_forward/outer/kernel": (16,),
    }
    kept = [variable.shape for variable in model.optimizer._velocities if variable is not None]
    assert (16, 48) not in kept, "no second moments for what needs none"


# ------------------------------------------------------------------------------------------- as optimisers in Keras


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_travels_in_checkpoints_and_configs(name, tmp_path):
    made, values = optimizer(name, 0.02, weight_decay=0.2), variables()
    made.build(values)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(made))
    assert type(again) is type(made) is OPTIMIZERS[name]
    assert again.get_config() == made.get_config()

    def checkpoint(owner, values):
        return tf.train.Checkpoint(
            weights=[value.value for value in values], optimizer=[variable.value for variable in owner.variables]
        )

    apply = [tf.constant(gradient) for gradient in gradients(0)]
    made.apply(apply)
    path = checkpoint(made, values).save(str(tmp_path / "step"))
    others = variables()
    again.build(others)
    checkpoint(again, others).restore(path).assert_consumed()
    for owner in (made, again):
        owner.apply(apply)
    for value, other in zip(values, others, strict=True):
        np.testing.assert_array_equal(value, other)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_clipping_limits_the_whole_gradient(name):
    made, stock = optimizer(name, 0.02, global_clipnorm=0.1), optimizer(name, 0.02, global_clipnorm=None)
    values, others = variables(), variables()
    made.build(values)
    stock.build(others)
    grads = gradients(0)
    norm = np.sqrt(sum((gradient**2).sum() for gradient in grads))
    made.apply([tf.constant(gradient) for gradient in grads])
    stock.apply([tf.constant(gradient * (0.1 / norm)) for gradient in grads])
    for value, other in zip(values, others, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-6)


def test_names_and_options_that_are_none():
    with pytest.raises(ValueError, match='expected one of adamw, lamb, adafactor, muon, got "sgd"'):
        optimizer("sgd", 0.1)
    with pytest.raises(TypeError, match='optimizer "adafactor" has no option beta_1; options: weight_decay, relative'):
        optimizer("adafactor", 0.1, beta_1=0.9)
    with pytest.raises(ValueError, match='adjust: expected match_rms_adamw or original, got "none"'):
        Muon(adjust="none")
    assert type(optimizer("adamw", 0.1, beta_2=0.98)) is AdamW
