import type { Linear } from "./linear.js";
import { Parameter, type ParameterSpec, type Storing } from "./parameter.js";

/**
 * What a model's linears compute in: `"f32"` (CPU; weights as stored), `"bf16"` (GPU), or `"fp8"` (both: e4m3 weights per channel,
 * activations per token).
 */
export type Precision = "f32" | "bf16" | "fp8";

/**
 * A place in a checkpoint's tree of names, at which modules declare their parameters. All scopes of a model share one list of parameters and one
 * of linears.
 *
 *     const attn = scope.at("attn");
 *     attn.stack(["to_q.weight", "to_k.weight"], [n, k])
 */
export class Scope {
  constructor(
    readonly parameters: Parameter[] = [],
    readonly precision: Precision = "f32",
    readonly prefix = "",
    readonly linears: Linear[] = [],
  ) {}

  at(name: string | number): Scope {
    return new Scope(this.parameters, this.precision, `${this.prefix}${name}.`, this.linears);
  }

  /** A vector or a norm's weight, kept in f32. */
  vector(name: string, length: number): Parameter {
    return this.#declare([name], [[length]], "f32");
  }

  /** A table or matrix, kept as the checkpoint has it. */
  matrix(name: string, rows: number, columns: number): Parameter {
    return this.#declare([name], [[rows, columns]], "stored");
  }

  /** A convolution's kernel; `kind` as in `ParameterSpec`. */
  kernel(
    name: string,
    out: number,
    channels: number,
    size: number,
    kind: "convolution" | "upsampling" = "convolution",
  ): Parameter {
    return this.#declare([name], [[out, channels, size, size]], "stored", kind);
  }

  /** Matrices (or vectors) of several names, stacked along the first axis. */
  stack(names: readonly string[], shapes: readonly (readonly number[])[], storing: Storing): Parameter {
    return this.#declare(names, shapes, storing);
  }

  #declare(
    names: readonly string[],
    shapes: readonly (readonly number[])[],
    storing: Storing,
    kind: ParameterSpec["kind"] = "matrix",
  ): Parameter {
    const parameter = new Parameter({
      names: names.map((name) => this.prefix + name),
      shapes,
      storing,
      kind,
    });
    this.parameters.push(parameter);
    return parameter;
  }
}
