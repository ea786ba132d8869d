"""Replays the requests that an export carries with it, so that a version's first client does not wait for tracing.

After tensorflow_serving/servables/tensorflow/saved_model_warmup_util.cc: a TFRecord of PredictionLog messages, at most
1000. A record that fails makes the version fail, because its requests would.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from serving.server import inference
from serving.server.errors import ModelLoadError, StatusError
from serving.server.models import Servable

WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000

_log = logging.getLogger(__name__)

_RUN = {
    "predict_log": inference.run_predict,
    "classify_log": inference.run_classify,
    "regress_log": inference.run_regress,
    "multi_inference_log": inference.run_multi_inference,
}


def load_and_warm_up(name: str, version: int, path: Path) -> Servable:
    """Loads a version and replays its warm-up requests. Raises ModelLoadError when either fails."""
    servable = Servable(name, version, path)
    file = path / WARMUP_FILE
    if file.is_file():
        start = time.perf_counter()
        count = _replay(servable, file)
        _log.info("warmed up %s version %d: %d requests, %.1f s", name, version, count, time.perf_counter() - start)
    return servable


def _replay(servable: Servable, file: Path) -> int:
    count = 0
    try:
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            count += 1
            if count > MAX_RECORDS:
                raise ModelLoadError(f"{file}: more than {MAX_RECORDS} warm-up records: write fewer")
            log = prediction_log_pb2.PredictionLog.FromString(record)
            kind = log.WhichOneof("log_type")
            if kind not in _RUN:
                raise ModelLoadError(f"{file}: record {count}: unsupported log type {kind}: use {', '.join(_RUN)}")
            _RUN[kind](servable, getattr(log, kind).request)
    except StatusError as error:
        raise ModelLoadError(f"{file}: record {count} fails: {error.code.name}: {error.message}") from error
    except DecodeError as error:
        raise ModelLoadError(f"{file}: record {count} is not a PredictionLog") from error
    except tf.errors.OpError as error:
        raise ModelLoadError(f"{file}: not a TFRecord file: {error.message.splitlines()[0]}") from error
    return count
