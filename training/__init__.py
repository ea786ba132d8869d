"""How a network learns: run configs, training runs under tf.distribute, and reports of what came out.

`training.run.run(config)` trains what a `training.config.RunConfig` says; `garden train` is its command line.
"""
