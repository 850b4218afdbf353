"""One slide on Slurm through Dask: dask-jobqueue submits the workers as jobs, slidewright gives them their shards.

    pip install "slidewright[dask]" dask-jobqueue
    python dask_jobqueue_example.py slide.svs pyramid.tif 8

The source and the folder of the destination must be on a filesystem that every node sees.
"""

from __future__ import annotations

import sys

from dask_jobqueue import SLURMCluster
from distributed import Client

import slidewright


def main(source: str, destination: str, jobs: int) -> None:
    # One thread a worker process: a task of slidewright keeps one core busy. SLURMCluster has options for partition,
    # account and time as well (queue, account, walltime).
    with SLURMCluster(cores=4, processes=4, memory="4GB", log_directory="slidewright-logs") as cluster:
        cluster.scale(jobs=jobs)
        with Client(cluster) as client:
            client.wait_for_workers(1)  # those that come later join in
            report = slidewright.convert(source, destination, engine="dask", dask=client, progress=True)
    print(f"{report.destination}: {report.bytes} bytes in {report.seconds:.1f} s")


if __name__ == "__main__":  # jobs of dask-jobqueue do not import this script, but it is a script that starts things
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 4)
