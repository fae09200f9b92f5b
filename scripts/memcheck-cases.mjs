// Which of the kernels' test cases run once more under compute-sanitizer, where a minute has to do for all of them.

/** A case that took longer without the sanitizer is about size: the same kernels run in smaller ones. */
const LONGEST_SECONDS = 0.2;

/**
 * @param {{ name: string, seconds: number }[]} tests as they ran without the sanitizer
 * @returns {string[]} names: every short case, and of a family (the name's first part) that has none but refusals the shortest
 */
export function memcheckCases(tests) {
  const short = ({ seconds }) => seconds <= LONGEST_SECONDS;
  const chosen = new Set(tests.filter(short).map(({ name }) => name));
  const familyOf = ({ name }) => name.split("/")[0];
  const covered = new Set();
  const launching = tests.filter(({ name }) => !name.endsWith("/refusals"));
  for (const test of launching.toSorted((a, b) => a.seconds - b.seconds)) {
    if (!covered.has(familyOf(test))) chosen.add(test.name);
    covered.add(familyOf(test));
  }
  return [...chosen];
}
