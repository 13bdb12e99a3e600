"""``hwnas search``: the best architecture that fits the budget, trained, exported and measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hwnas.cli.common import Address, DataRoot, Engine, Json, Tables, print_json, progress_bar, resumable
from hwnas.spaces.errors import ConfigError

if TYPE_CHECKING:
    from hwnas.search import SearchResult

__all__ = ["search"]


def search(
    ctx: typer.Context,
    space: Annotated[str | None, typer.Option(metavar="SPACE", help="Search space; see `hwnas spaces`.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="digits, fashion-mnist, cifar10, or an image folder.")
    ] = None,
    constraint: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help='Such as "latency@cpu-onnxruntime <= 2ms"; may be given several times.'),
    ] = None,
    strategy: Annotated[str, typer.Option(metavar="NAME", help="See `hwnas strategies`.")] = "evolution",
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A setting of the strategy; may be given several times."),
    ] = None,
    evaluator: Annotated[
        str, typer.Option(metavar="one-shot|scratch", help="Weights of a supernet, or training of every candidate.")
    ] = "one-shot",
    evaluations: Annotated[int | None, typer.Option(min=1, metavar="N", help="Architectures to evaluate.")] = None,
    supernet_epochs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Epochs of training the supernet.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Epochs of training a network from scratch.")
    ] = None,
    finalists: Annotated[
        int, typer.Option(min=1, metavar="N", help="Candidates to measure at most, until one fits.")
    ] = 5,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of everything random.")] = 0,
    run: Annotated[
        str | None, typer.Option(metavar="DIR", help="The run folder [default: runs/SPACE-DATA-TIME].")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with this run; needs no other option.")
    ] = None,
    tables: Tables = None,
    data_root: DataRoot = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Use only so many training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, metavar="N", help="Images in a training batch.")] = None,
    lr: Annotated[float | None, typer.Option(metavar="RATE", help="Peak learning rate.")] = None,
    distill: Annotated[
        bool, typer.Option("--distill", help="Train the winner with a larger network of the supernet as its teacher.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help="Threads for training.")] = None,
    inherit: Annotated[
        bool | None,
        typer.Option(
            "--inherit/--no-inherit",
            help="From scratch: begin with weights of a similar network [default: what the strategy does].",
        ),
    ] = None,
    task: Annotated[
        str, typer.Option(metavar="NAME", help="What candidates are trained for; see `hwnas tasks`.")
    ] = "classification",
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="From scratch: candidates trained at a time [default: 1; with Ray, what fits]."
        ),
    ] = None,
    engine: Engine = None,
    address: Address = None,
    retries: Annotated[
        int, typer.Option(min=0, metavar="N", help="Times a candidate is begun again after its worker or node died.")
    ] = 4,
    precision: Annotated[
        str, typer.Option(metavar="float32|bfloat16|float16|auto", help="Arithmetic of the training.")
    ] = "float32",
    json: Json = False,
) -> None:
    """Search under constraints; train, export, measure.

    The best architecture that was found is trained from scratch, exported and measured on the device.
    If it misses its budget there, the next one is taken. A run is a folder. When it is stopped, even
    killed, --resume goes on with it and loses nothing that was finished.

    \b
    Examples:
      hwnas search --space mobilenet --data digits --constraint "latency@cpu-onnxruntime <= 1ms"
      hwnas search --space shufflenet --data fashion-mnist --strategy regularized-evolution
          --constraint "latency@cpu-onnxruntime <= 1ms" --constraint "size <= 4MB" --run runs/shuffle
      hwnas search --resume runs/shuffle
      hwnas search --space nasbench201 --data fashion-mnist --task jigsaw --constraint "params <= 500K" --limit 4000
      hwnas search --space epnas --data digits --strategy epnas --evaluator scratch --jobs 2
          --constraint "flops <= 10M" --constraint "params <= 200k"
      hwnas search --space epnas --data digits --strategy epnas --evaluator scratch --constraint "params <= 200k"
          --engine ray --address 192.168.1.5:6379
      hwnas search --space "hurricane(width=0.25,pool=sep3+mb5e3+shuffle3)" --data digits --strategy hurricane
          --option reuse=no --constraint "latency@cpu-onnxruntime <= 1ms"
      torchrun --nproc-per-node 2 -m hwnas search --space mobilenet --data fashion-mnist --constraint "flops <= 5M"
    """
    import hwnas
    from hwnas import ranks

    ranks.start()
    if resume is not None:
        _refuse_others(ctx, resume)
        with resumable(f"`hwnas search --resume {resume}` goes on from here"), progress_bar() as progress:
            result = hwnas.resume(resume, progress=progress, engine=engine, address=address)
    else:
        if space is None or data is None or not constraint:
            missing = "--space" if space is None else "--data" if data is None else "--constraint"
            raise ConfigError(f"{missing} is missing; name a space, a data set and at least one constraint")
        from hwnas.run import default_run_path

        folder = run or str(default_run_path(space, data))
        with resumable(f"`hwnas search --resume {folder}` goes on from here"), progress_bar() as progress:
            result = hwnas.search(
                space,
                data,
                constraint,
                strategy=strategy,
                options=option or (),
                evaluator=evaluator,
                evaluations=evaluations,
                supernet_epochs=supernet_epochs,
                epochs=epochs,
                finalists=finalists,
                seed=seed,
                run=folder,
                tables=tables,
                data_root=data_root,
                limit=limit,
                batch_size=batch_size,
                lr=lr,
                distill=distill,
                inherit=inherit,
                jobs=jobs,
                task=task,
                engine=engine or ("local" if address is None else "ray"),
                address=address,
                retries=retries,
                threads=threads,
                precision=precision,
                progress=progress,
            )
    if not ranks.leads():
        return
    if json:
        print_json(
            {
                "architecture": result.architecture,
                "onnx": result.onnx,
                "accuracy": result.accuracy,
                "costs": result.costs,
                "run": result.run,
            }
        )
    else:
        _print(result)


def _refuse_others(ctx: typer.Context, resume: str) -> None:
    for name in ctx.params:
        source = ctx.get_parameter_source(name)
        if name not in ("resume", "json", "engine", "address") and source is not None and source.name == "COMMANDLINE":
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} cannot be changed when a run is resumed; leave it out, {resume} knows it")


def _print(result: SearchResult) -> None:
    from hwnas.report import describe_cost

    typer.echo(f"accuracy  {result.accuracy:.4g} on the test set, of {result.trials} architectures evaluated")
    for text, cost in result.costs.items():
        typer.echo(f"{text}  {describe_cost(text, cost)}")
    typer.echo(f"onnx  {result.onnx}")
    typer.echo(f"run  {result.run}")
