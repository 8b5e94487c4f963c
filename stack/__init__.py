"""Real servers on loopback, as production has them: PostgreSQL, S3, Prefect, MLflow. For `make stack` and the tests."""
