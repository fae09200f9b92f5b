import { FluxError, type FluxErrorCode } from "../errors.js";

/**
 * The FluxError for a failed read of `path`: `missing` is the code for a file that is not there (what it means depends on who
 * asked for it); all other trouble is ERR_FLUX_IO.
 */
export function fileError(path: string, cause: unknown, missing: FluxErrorCode): FluxError {
  const code = (cause as NodeJS.ErrnoException).code;
  switch (code) {
    case "ENOENT":
    case "ENOTDIR":
      return new FluxError(
        missing,
        `${path} is not there. Check the path${missing === "ERR_FLUX_BAD_WEIGHTS" ? ", or download the missing file" : ""}.`,
        {
          cause,
        },
      );
    case "EISDIR":
      return new FluxError(missing, `${path} is a folder, not a file. Give the path of the file in it.`, {
        cause,
      });
    case "EACCES":
    case "EPERM":
      return new FluxError(
        "ERR_FLUX_IO",
        `${path} may not be read (${code}). Give this user the right to read it.`,
        { cause },
      );
    case "EMFILE":
    case "ENFILE":
      return new FluxError(
        "ERR_FLUX_IO",
        `${path} cannot be opened: too many open files. Raise the limit (ulimit -n).`,
        {
          cause,
        },
      );
    default:
      return new FluxError(
        "ERR_FLUX_IO",
        `${path} cannot be read: ${(cause as Error).message}. Check the disk.`,
        { cause },
      );
  }
}
