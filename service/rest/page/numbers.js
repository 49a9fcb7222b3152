// Numbers as text.

/** The shortest decimal that reads back to the same float32: the same digits as in the server's JSON. */
export function exact(value) {
  const number = Math.fround(value);
  for (let digits = 1; digits <= 9; digits += 1) {
    const text = number.toPrecision(digits);
    if (Math.fround(Number(text)) === number) return String(Number(text));
  }
  return String(number);
}

/** A few digits, for axes and tables. */
export function rough(value, digits = 4) {
  return String(Number(value.toPrecision(digits)));
}
