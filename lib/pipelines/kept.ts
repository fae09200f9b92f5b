/** The entry of `key`, made if absent; beyond `most` entries the least recently used that is not `busy` is disposed. */
export function kept<T extends { dispose(): void }>(
  cache: Map<string, T>,
  key: string,
  most: number,
  make: () => T,
  busy?: T,
): T {
  const known = cache.get(key);
  if (known !== undefined) cache.delete(key);
  const oldest = [...cache].find(([, value]) => value !== busy);
  if (known === undefined && cache.size >= most && oldest !== undefined) {
    cache.delete(oldest[0]);
    oldest[1].dispose();
  }
  const entry = known ?? make();
  cache.set(key, entry);
  return entry;
}
