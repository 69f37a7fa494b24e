from mlx_websockets.engine.messages import Memory
from mlx_websockets.engine.worker.drift import LEAST_DRIFT_BYTES, Drift

GB = 1_000_000_000


def test_memory_that_comes_back_is_no_drift():
    drift = Drift(GB)

    assert not any(drift.is_too_much(Memory(active=GB + wave, resident=2 * GB)) for wave in (0, GB // 2, 0, GB // 2))


def test_arrays_that_stay_are_drift_beyond_a_bound():
    drift = Drift(GB)
    drift.is_too_much(Memory(active=GB))

    assert not drift.is_too_much(Memory(active=GB + LEAST_DRIFT_BYTES))
    assert drift.is_too_much(Memory(active=GB + LEAST_DRIFT_BYTES + 1))


def test_a_large_model_may_drift_further():
    drift = Drift(100 * GB)
    drift.is_too_much(Memory(active=100 * GB))

    assert not drift.is_too_much(Memory(active=120 * GB))


def test_what_is_kept_on_purpose_is_no_drift():
    drift = Drift(GB)
    drift.is_too_much(Memory(active=GB))

    assert not drift.is_too_much(Memory(active=4 * GB, kept=3 * GB))


def test_python_s_own_memory_counts_too():
    drift = Drift(GB)
    drift.is_too_much(Memory(active=GB, resident=2 * GB))

    assert drift.is_too_much(Memory(active=GB, resident=2 * GB + LEAST_DRIFT_BYTES + 1))
