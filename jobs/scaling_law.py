"""The scaling law of a study: error = floor + amplitude * size^-exponent, with intervals and a refusal to overclaim.

The fit minimises a Huber loss of log residuals from many starting points (the form of arXiv 2203.15556, appendix D);
intervals come from a parametric bootstrap whose noise level is itself redrawn, since a handful of points does not pin
it down (arXiv 2404.10102 shows how intervals come out implausibly tight otherwise).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_SIZES = 4  # three parameters plus one size to predict
MAX_INTERVAL_WIDTH = 0.30  # of the exponent; a wider one says nothing useful
_HUBER_DELTA = 0.02  # log residuals beyond about 2 % count linearly
_EXPONENT_RANGE = (1e-3, 3.0)
_START_EXPONENTS = (0.08, 0.2, 0.35, 0.6, 1.0)
_START_FLOORS = (0.1, 0.85)  # share of the smallest error


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPoint:
    """One trained model: unique training clips, seed, and a positive error (lower is better)."""

    size: int
    seed: int
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """`floor + amplitude * size ** -exponent`."""

    floor: float
    amplitude: float
    exponent: float

    def error(self, sizes: np.ndarray) -> np.ndarray:
        result: np.ndarray = self.floor + self.amplitude * np.asarray(sizes, np.float64) ** -self.exponent
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutTest:
    """The largest size, predicted from the smaller ones before it was used."""

    size: int
    predicted: float
    interval: Interval
    measured: float  # mean over seeds

    @property
    def inside(self) -> bool:
        return self.interval.low <= self.measured <= self.interval.high


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingVerdict:
    """What may be said about a set of points; `law` is None when nothing was fitted."""

    law: PowerLaw | None
    exponent: Interval | None
    held_out: HeldOutTest | None
    band: tuple[tuple[float, float, float], ...]  # size, low, high of the fitted curve
    exponent_is_known: bool
    sentence: str


def judge(points: Sequence[ScalingPoint], *, num_bootstrap: int = 400, seed: int = 0) -> ScalingVerdict:
    """Fits the law where the points allow it and says in one sentence what they show."""
    sizes = sorted({point.size for point in points})
    if len(sizes) < MIN_SIZES:
        sentence = (
            f"{len(sizes)} size{'' if len(sizes) == 1 else 's'} cannot determine and test a law with three parameters "
            f"(at least {MIN_SIZES} are needed, 7 log-spaced ones are advised): no exponent is given. {_trend(points)}"
        )
        return ScalingVerdict(
            law=None, exponent=None, held_out=None, band=(), exponent_is_known=False, sentence=sentence
        )
    laws = _bootstrap(points, num_bootstrap, seed)
    law = fit_power_law(points)
    exponent = _interval(laws[:, 2])
    known = exponent.width <= MAX_INTERVAL_WIDTH
    held_out = _test_largest(points, num_bootstrap, seed)
    grid = np.geomspace(sizes[0], sizes[-1], 40)
    curves = laws[:, :1] + laws[:, 1:2] * grid ** -laws[:, 2:]
    low, high = np.percentile(curves, (2.5, 97.5), axis=0)
    band = tuple(zip(grid.tolist(), low.tolist(), high.tolist(), strict=True))
    return ScalingVerdict(
        law=law,
        exponent=exponent,
        held_out=held_out,
        band=band,
        exponent_is_known=known,
        sentence=f"{_exponent_sentence(law, exponent, known)} {_held_out_sentence(held_out)}",
    )


def fit_power_law(points: Sequence[ScalingPoint]) -> PowerLaw:
    """The best law over all starting points; needs at least three sizes."""
    sizes, errors = _arrays(points)
    assert len(set(sizes)) >= 3, "a law with three parameters needs three sizes"
    floor, amplitude, exponent = _fit_many(sizes, errors[None])[0]
    return PowerLaw(floor=float(floor), amplitude=float(amplitude), exponent=float(exponent))


def expected_exponent_width(
    sizes: Sequence[int],
    seeds_per_size: Sequence[int],
    *,
    relative_noise: float,
    exponent: float = 0.30,
    floor_share: float = 0.5,
    num_simulations: int = 400,
    seed: int = 0,
) -> float:
    """Width of the 95 % range of fitted exponents over simulated studies of this plan.

    `relative_noise` is the standard deviation of log error between seeds, `floor_share` the share of the error at the
    smallest size that no amount of data removes. Fewer than three sizes: infinity.
    """
    if len(set(sizes)) < 3:
        return float("inf")
    all_sizes = np.repeat(np.asarray(sizes, np.float64), seeds_per_size)
    truth = floor_share + (1 - floor_share) * (all_sizes / all_sizes.min()) ** -exponent
    noise = np.random.default_rng(seed).normal(0, relative_noise, (num_simulations, len(all_sizes)))
    return _interval(_fit_many(all_sizes, truth * np.exp(noise))[:, 2]).width


def _exponent_sentence(law: PowerLaw, exponent: Interval, known: bool) -> str:
    if known:
        interval = f"95 % interval {exponent.low:.2f} to {exponent.high:.2f}"
        return f"Exponent {law.exponent:.2f} ({interval}), floor {law.floor:.4g}."
    return (
        f"The 95 % interval of the exponent is {exponent.width:.2f} wide (more than {MAX_INTERVAL_WIDTH:.2f}): "
        "these points do not determine an exponent, and none is given; a wider span of sizes helps most."
    )


def _held_out_sentence(test: HeldOutTest | None) -> str:
    if test is None:
        return "Too few sizes to predict the largest one from the others."
    verdict = "inside" if test.inside else "outside"
    return (
        f"The largest size ({test.size}) was predicted from the smaller ones: {test.predicted:.4g} "
        f"({test.interval.low:.4g} to {test.interval.high:.4g}), measured {test.measured:.4g}, {verdict} the interval."
    )


def _trend(points: Sequence[ScalingPoint]) -> str:
    """The plain comparison of the smallest and the largest size."""
    sizes = sorted({point.size for point in points})
    if len(sizes) < 2:
        return "A curve needs at least two sizes."
    first, last = (np.mean([p.error for p in points if p.size == size]) for size in (sizes[0], sizes[-1]))
    change = (last / first - 1) * 100
    word = "lower" if change < 0 else "higher"
    return f"From {sizes[0]} to {sizes[-1]} clips the error is {abs(change):.1f} % {word}."


def _test_largest(points: Sequence[ScalingPoint], num_bootstrap: int, seed: int) -> HeldOutTest | None:
    largest = max(point.size for point in points)
    smaller = [point for point in points if point.size < largest]
    if len({point.size for point in smaller}) < 3:
        return None
    laws = _bootstrap(smaller, num_bootstrap, seed)
    measured = [point.error for point in points if point.size == largest]
    spread = np.random.default_rng(seed + 1).normal(0, _noise(smaller)[0], len(laws)) / np.sqrt(len(measured))
    predictions = (laws[:, 0] + laws[:, 1] * largest ** -laws[:, 2]) * np.exp(spread)
    return HeldOutTest(
        size=largest,
        predicted=float(fit_power_law(smaller).error(np.array([largest]))[0]),
        interval=_interval(predictions),
        measured=float(np.mean(measured)),
    )


def _noise(points: Sequence[ScalingPoint]) -> tuple[float, int]:
    """Standard deviation of log error and its degrees of freedom: from seeds where there are any, else residuals."""
    sizes, errors = _arrays(points)
    logs = np.log(errors)
    repeats = [logs[sizes == size] for size in np.unique(sizes)]
    within = sum(len(group) - 1 for group in repeats)
    residuals = logs - np.log(fit_power_law(points).error(sizes))
    left = max(1, len(points) - 3)
    from_fit = float(np.sqrt((residuals**2).sum() / left))
    if within == 0:
        return max(from_fit, 1e-6), left
    from_seeds = float(np.sqrt(sum(((group - group.mean()) ** 2).sum() for group in repeats) / within))
    return max(from_fit, from_seeds, 1e-6), max(within, left)


def _bootstrap(points: Sequence[ScalingPoint], count: int, seed: int) -> np.ndarray:
    """Laws [count, 3] refitted to errors drawn around the fitted law, the noise level redrawn for each."""
    generator = np.random.default_rng(seed)
    sizes, _ = _arrays(points)
    sigma, freedom = _noise(points)
    levels = sigma * np.sqrt(freedom / generator.chisquare(freedom, (count, 1)))
    levels = np.minimum(levels, 10 * sigma)
    errors = fit_power_law(points).error(sizes) * np.exp(generator.normal(0, 1, (count, len(sizes))) * levels)
    return _fit_many(sizes, errors)


def _fit_many(sizes: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Fits every row of `errors` [M, n] from every start at once; returns (floor, amplitude, exponent) [M, 3].

    Levenberg-Marquardt on (log floor, log amplitude, exponent) with Huber weights. Sizes are taken relative to their
    geometric mean, which decouples amplitude and exponent.
    """
    centre = float(np.exp(np.log(sizes).mean()))
    x, y = np.log(sizes / centre), np.log(errors)
    parameters, targets, num_starts = _starts(x, y)
    damping = np.full(len(parameters), 1e-2)
    loss, gradient, curvature = _quadratic(parameters, x, targets)
    for _ in range(50):
        system = curvature + damping[:, None, None] * (np.eye(3) * (np.einsum("kii->ki", curvature)[:, None] + 1e-9))
        proposal = parameters - np.linalg.solve(system, gradient[..., None])[..., 0]
        proposal[:, 2] = np.clip(proposal[:, 2], *_EXPONENT_RANGE)
        proposal[:, :2] = np.clip(proposal[:, :2], y.min() - 12, y.max() + 6)
        new_loss, new_gradient, new_curvature = _quadratic(proposal, x, targets)
        better = new_loss <= loss
        parameters[better], loss = proposal[better], np.where(better, new_loss, loss)
        gradient[better], curvature[better] = new_gradient[better], new_curvature[better]
        damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-9, 1e9)
    best = loss.reshape(-1, num_starts).argmin(1) + np.arange(len(errors)) * num_starts
    log_floor, log_amplitude, exponent = parameters[best].T
    return np.stack([np.exp(log_floor), np.exp(log_amplitude + exponent * np.log(centre)), exponent], 1)


def _starts(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Starting parameters [M * S, 3], targets [M * S, n] and S."""
    floors = y.min(1)[:, None] + np.log(_START_FLOORS)  # [M, F]
    amplitudes = np.log(
        np.exp(np.median(y, 1))[:, None] - np.exp(floors) * 0.999
    )  # error at the centre minus the floor
    grid = [np.stack([floors, amplitudes, np.full_like(floors, exponent)], -1) for exponent in _START_EXPONENTS]
    starts = np.concatenate(grid, 1)  # [M, S, 3]
    count = starts.shape[1]
    return starts.reshape(-1, 3), np.repeat(y, count, 0), count


def _quadratic(parameters: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Huber loss [K], its gradient [K, 3] and the Gauss-Newton curvature [K, 3, 3]."""
    log_floor, log_amplitude, exponent = (column[:, None] for column in parameters.T)
    power = log_amplitude - exponent * x
    prediction = np.logaddexp(log_floor, power)
    share = np.exp(power - prediction)  # of the prediction that the power term makes up
    jacobian = np.stack([1 - share, share, -share * x], -1)
    residual = prediction - y
    size = np.abs(residual)
    weight = np.where(size <= _HUBER_DELTA, 1.0, _HUBER_DELTA / np.maximum(size, 1e-300))
    loss = np.where(size <= _HUBER_DELTA, 0.5 * residual**2, _HUBER_DELTA * (size - 0.5 * _HUBER_DELTA)).sum(1)
    gradient = np.einsum("kn,kni->ki", weight * residual, jacobian)
    curvature = np.einsum("kn,kni,knj->kij", weight, jacobian, jacobian)
    return loss, gradient, curvature


def _arrays(points: Sequence[ScalingPoint]) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.array([point.size for point in points], np.float64)
    errors = np.array([point.error for point in points], np.float64)
    assert (sizes > 0).all() and (errors > 0).all(), "sizes and errors must be positive"
    return sizes, errors


def _interval(values: np.ndarray) -> Interval:
    low, high = np.percentile(values, (2.5, 97.5))
    return Interval(low=float(low), high=float(high))
