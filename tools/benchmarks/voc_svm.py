"""VOC07 SVM and low-shot SVM on frozen features, of any checkpoint of a ResNet.

    python tools/benchmarks/voc_svm.py CONFIG CHECKPOINT --voc-root VOCdevkit/VOC2007 --low-shot

Extraction by several processes; the SVMs then by the first one, with all cores of one machine:

    OMP_NUM_THREADS=16 python -m torch.distributed.run --standalone --nproc-per-node 8 \\
        tools/benchmarks/voc_svm.py CONFIG CHECKPOINT --launcher pytorch

An interrupted run goes on where it was: give the same command again.
"""

from mmcoke.cli.commands.evaluate import voc_svm
from mmcoke.cli.main import run_tool

if __name__ == '__main__':
    run_tool(voc_svm, __doc__)
