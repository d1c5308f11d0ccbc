-- Airflow's database is made by the image; MLflow's lies beside it.
CREATE DATABASE mlflow;
