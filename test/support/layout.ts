/** Reorders [B, C, H, W] to [B, H, W, C]. */
export function toChannelsLast(tensor: { shape: readonly number[]; data: Float32Array }): {
  shape: number[];
  data: Float32Array;
} {
  const [batch, channels, height, width] = tensor.shape;
  const pixels = height * width;
  const data = new Float32Array(tensor.data.length);
  for (let b = 0; b < batch; b++) {
    for (let c = 0; c < channels; c++) {
      for (let p = 0; p < pixels; p++) {
        data[(b * pixels + p) * channels + c] = tensor.data[(b * channels + c) * pixels + p];
      }
    }
  }
  return { shape: [batch, height, width, channels], data };
}
