import sys
from src.config import *
def main(config, job):
    print(config, job)
if __name__ == "__main__":
    raise SystemExit(launch(main, "config", TrainConfig))
