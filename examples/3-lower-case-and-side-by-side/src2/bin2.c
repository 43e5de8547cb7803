/* bin2 prints the first n Fibonacci numbers, at most 90, so that they fit. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	long left = argc > 1 ? strtol(argv[1], NULL, 10) : 10;
	unsigned long a = 0, b = 1;

	if (left > 90)
		left = 90;
	printf("fibonacci:");
	for (; left > 0; left--) {
		unsigned long next = a + b;

		printf(" %lu", a);
		a = b;
		b = next;
	}
	putchar('\n');
	return 0;
}
